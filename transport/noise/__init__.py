"""transport/noise"""
