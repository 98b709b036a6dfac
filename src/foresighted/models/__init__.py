"""Language models and reward models: found, loaded, verified and read in one way, wherever they are used."""
