"""lattica/content"""
