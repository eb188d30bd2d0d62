"""lattica/models"""
