"""The root file server's side of publishing: pull versions, verify and hold them, tell netboot, let go."""
