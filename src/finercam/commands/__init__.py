"""The jobs of the command line, one file each; heavy imports stay inside, so that `--help` is quick."""
