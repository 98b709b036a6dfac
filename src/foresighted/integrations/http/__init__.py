"""A reward owner over HTTP: for engines that ask for rewards there, and for everybody else."""
