"""Other libraries: code written for them runs on these operators, and theirs on our kernels."""
