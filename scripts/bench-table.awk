# The tables of scripts/bench: awk -F'\t' -f bench-table.awk RESULTS ROWS
# RESULTS has a line per run: mode, row, round, requests/s, p50 and p99 in us, ns of the primary per connection or -.
# ROWS says what is printed, in its order: mode, row, shares, and for requests/s and for the primary's CPU the row that
# the ratio is taken to and the goal, if there is one.

function median(list, n, i, j, swap) {
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && list[j - 1] > list[j]; j--) { swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap }
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}

function of_column(mode, row, column, list, n, round) {
    for (round = 0; (mode, row, round, column) in cell; round++) list[++n] = cell[mode, row, round, column]
    return median(list, n)
}

# Taken within each round, and with the goal beside it.
function ratio(mode, row, base, goal, column, list, n, round) {
    for (round = 0; (mode, row, round, column) in cell; round++)
        list[++n] = cell[mode, row, round, column] / cell[mode, base, round, column]
    return sprintf("%.3f", median(list, n)) (goal ? " (" goal ")" : "")
}

function time(us) { return us < 1000 ? sprintf("%.0f us", us) : sprintf("%.2f ms", us / 1000) }

FNR == NR { for (column = 4; column <= NF; column++) cell[$1, $2, $3, column] = $column; next }

$1 != mode {
    if (mode) print ""
    mode = $1
    title = mode == "close" ? "one connection per request" : "keep-alive"
    printf "%-27s%11s%15s%11s%11s%13s%15s%21s\n", title, "requests/s", "of " rate_title, "p50", "p99", "primary CPU",
        "of " cpu_title, "shares, % (apart)"
}

{
    measured = cell[mode, $2, 0, 7] != "-"
    printf "%-27s%11.0f%15s%11s%11s%13s%15s%21s\n", $2, of_column(mode, $2, 4), ratio(mode, $2, $4, $5, 4),
        time(of_column(mode, $2, 5)), time(of_column(mode, $2, 6)),
        measured ? sprintf("%.2f us", of_column(mode, $2, 7) / 1000) : "-",
        measured ? ratio(mode, $2, $6, $7, 7) : "-", $3
}
