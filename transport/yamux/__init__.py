"""transport/yamux"""
