"""How passes are made faster: layouts, precision, folded frozen copies, kernels and the allocator."""
