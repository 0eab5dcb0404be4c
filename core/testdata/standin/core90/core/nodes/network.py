class WlanNode:
    pass
