"""What the columns of known benchmark files mean: one function a layout, from a row to what a problem is made of."""
