class BasicRangeModel:
    name = "basic_range"
