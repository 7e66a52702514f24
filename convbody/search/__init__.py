"""Search for FBNet architectures that are quick on a device of one's own: measure, train, derive."""
