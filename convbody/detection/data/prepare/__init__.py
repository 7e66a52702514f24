"""Making the data sets that this project trains on out of published packages, or out of nothing."""
