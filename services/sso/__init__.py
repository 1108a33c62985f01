"""Single sign-on: who sits at an address, for nginx."""
