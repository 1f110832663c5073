"""The same with list lengths of their own for every head: none, all, too many, negative."""
from convert_vertical_slash_indexes import case

if __name__ == "__main__":
    case("convert_vertical_slash_indexes_mergehead", "counts", 2, 6, 4, 11, 14, 8, 8, True,
         counts=([0, 11, 5, 40, -3, 7], [6, 14, 0, 9, 3, 99]), faults=False)
