"""Arrays in, arrays out: transforms, convolution kernels and fused loops. No Scan, no path, no option object."""
