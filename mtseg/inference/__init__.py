"""A trained network put to use: read back, scored, asked about many images, handed on."""
