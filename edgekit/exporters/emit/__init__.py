"""Plan -> object code, packed weights, C header, libraries: the only folder that compiles and links."""
