"""pytorch-grad-cam's metrics under the same names, with finercam's solver and ranks."""

from finercam.compat.pytorch_grad_cam.metrics import arcc, cam_mult_image, perturbation_confidence, road

__all__ = ["arcc", "cam_mult_image", "perturbation_confidence", "road"]
