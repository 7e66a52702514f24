"""Loading weight files into a backbone, with a report of what fitted."""
