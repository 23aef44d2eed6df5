"""int4 weights chosen for what they will be given: `chatglm3 quantize --calibrate`.

`samples` turns texts into ids, `walk` runs them through the network layer by layer and quantizes each linear
for the inputs it meets; `chatglm3/quant/gptq.py` has the arithmetic of one weight.
"""

from chatglm3.calibration.samples import calibration_samples
from chatglm3.calibration.walk import calibrated_weights, write_calibrated

__all__ = ["calibrated_weights", "calibration_samples", "write_calibrated"]
