"""The LAN harness: a whole hall from images of the store, in systemd-nspawn containers and QEMU, on one machine.

    with Lab(topology.hall(seats=4)) as lab:
        lab.start()
        lab["gw"].wait_for_unit("chrony.service")

`lab` has the lab, `node` the verbs of a machine, `segment` those of a switch; `topology` is what a lab consists of.
"""
