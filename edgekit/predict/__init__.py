"""What a model would cost on a target at levels of sparsity: from tables of measured kernels, before anyone trains."""
from edgekit.predict.forecast import Forecast, LayerForecast, forecast

__all__ = ["Forecast", "LayerForecast", "forecast"]
