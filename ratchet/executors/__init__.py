"""Where a run happens: on this machine, on a Ray cluster, on a Slurm cluster."""
