"""What gw cannot make again: saved, copied to root file servers, and restored on another host."""
