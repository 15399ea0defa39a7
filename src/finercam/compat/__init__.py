"""Drop-ins for other packages: change one import line and keep the script. One module (or folder) for each peer."""
