"""What a trained model has to beat: a ridge filter, a plain U-Net, and marking everything."""
