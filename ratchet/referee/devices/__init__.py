"""The devices of this machine: their names, their cores, who holds them."""
