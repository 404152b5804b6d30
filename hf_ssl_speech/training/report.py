"""x"""
def write_report(folder):
    """x"""
    return folder
