//! Tables for people, as kubectl prints them.

/// Lines of columns that are as wide as what stands in them; empty fields are shown as `-`.
pub fn columns<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let shown = |field: &str| if field.is_empty() { "-".to_owned() } else { field.to_owned() };
    let heading = heading.map(str::to_owned);
    let lines: Vec<_> = std::iter::once(&heading)
        .chain(rows)
        .map(|row| row.each_ref().map(|field| shown(field)))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in &lines {
        let mut printed = String::new();
        for (field, width) in line.iter().zip(widths) {
            printed += &format!("{field:width$}   ");
        }
        text += printed.trim_end();
        text.push('\n');
    }
    text
}

/// A number of bytes in the largest unit of which there is at least one.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit = units[unit];
    if count < 1024 { format!("{count} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_field() {
        let rows = [["a".into(), "10.0.0.200".into()], ["long one".into(), String::new()]];
        let text = columns(["NAME", "VIP"], &rows);
        assert_eq!(text, "NAME       VIP\na          10.0.0.200\nlong one   -\n");
    }

    #[test]
    fn bytes_have_a_unit() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (74_760_192, "71.3 MiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }
}
