"""The FBNet family: blocks, architectures and the networks made of them."""
