"""What is done with a backbone: ``convbody.detection`` feeds heads with it, ``convbody.training`` trains."""

__version__ = "0.1.0"
