"""TinyNet, an example of a backbone that lives outside convbody."""
