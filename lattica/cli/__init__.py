"""lattica/cli"""
