"""What the verbs of `backline mdb` do, one module a group of them; `services.mdb.cli` has their command lines."""
