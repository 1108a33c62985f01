"""Who there is: users and groups of udb on every host and seat, as files that the system's name service reads."""
