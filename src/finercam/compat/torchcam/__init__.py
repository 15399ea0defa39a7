"""A drop-in for torch-cam: `from finercam.compat.torchcam.methods import LayerCAM`, and the script stays as it is."""
