//! Multi-row statements: a round trip to the database costs more than a row.

/// Rows per statement. Few sizes, so that few statements are prepared; no large one, since the
/// driver looks up each placeholder among all others.
const SIZES: [usize; 3] = [16, 4, 1];

/// Splits the rows into portions of these sizes.
pub(crate) fn several<T>(mut all: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= all.len())?;
        let (portion, rest) = all.split_at(size);
        all = rest;
        Some(portion)
    })
}

/// `INSERT … VALUES ($1, $2), ($3, $4)` for this number of rows and columns.
pub(crate) fn rows_of(insert: &str, columns: usize, rows: usize) -> String {
    let mut sql = format!("{insert} VALUES ");
    for row in 0..rows {
        sql += if row == 0 { "(" } else { ", (" };
        sql += &places(row * columns, columns);
        sql.push(')');
    }
    sql
}

/// `$4, $5, $6`: `count` placeholders after the first `before`.
pub(crate) fn places(before: usize, count: usize) -> String {
    let places: Vec<String> = (before + 1..=before + count).map(|place| format!("${place}")).collect();
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_portion() {
        let all: Vec<usize> = (0..83).collect();
        let portions: Vec<usize> = several(&all).map(<[usize]>::len).collect();
        assert_eq!(portions, [16, 16, 16, 16, 16, 1, 1, 1]);
        assert_eq!(several(&all).flatten().copied().collect::<Vec<_>>(), all);
        assert_eq!(several::<u8>(&[]).count(), 0);
        assert_eq!(rows_of("INSERT INTO a (b, c)", 2, 2), "INSERT INTO a (b, c) VALUES ($1, $2), ($3, $4)");
    }
}
