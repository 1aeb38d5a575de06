"""Models: loading, encoding of rows, packing, their parts."""
