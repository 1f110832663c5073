module kvops

go 1.19
