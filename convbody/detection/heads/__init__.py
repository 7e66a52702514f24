"""The parts of detectors that follow the backbone."""
