"""What curvature says about a trained model: which records shaped an answer, the spectrum, how sharp the minimum is."""

from .ball import Sharpness, sharpness
from .influences import Influence, influence
from .spectra import Spectrum, spectrum
from .traces import Trace, trace

__all__ = ["Influence", "Sharpness", "Spectrum", "Trace", "influence", "sharpness", "spectrum", "trace"]
