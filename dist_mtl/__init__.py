"""Click and conversion models whose embedding tables are larger than one device, trained with TorchRec."""

__version__ = "0.1.0"
