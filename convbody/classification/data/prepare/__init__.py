"""Small real data sets out of package registries, as MNIST files."""
