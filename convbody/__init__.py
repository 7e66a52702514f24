"""What is done with a backbone: ``convbody.detection`` feeds detection heads, ``convbody.training`` trains them."""

__version__ = "0.1.0"
