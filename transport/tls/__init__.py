"""transport/tls"""
