"""Data sets of labelled images: found by name, checked, augmented, and put into repeatable batches."""
