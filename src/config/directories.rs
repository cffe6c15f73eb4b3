//! The data directories: where they are, and that no two of them are one, whatever they are called.

use std::path::{Component, Path, PathBuf};

use super::error::Problem;
use super::host::Machine;
use super::load::Loaded;
use crate::runtime::disk::Disk;

const KEY: &str = "data.directories";

/// Absolute paths of the data directories, as they were written.
pub(super) fn resolve(
    loaded: &Loaded,
    machine: &Machine,
    disk: &dyn Disk,
    problems: &mut Vec<Problem>,
) -> Vec<PathBuf> {
    let written = &loaded.settings.data.directories.0;
    if written.is_empty() || written.iter().any(|path| path.as_os_str().is_empty()) {
        problems.push(loaded.problem(KEY, "needs at least one path, and none that is empty"));
    }
    let absolute = |path: &PathBuf| -> PathBuf {
        let absolute = machine.working_directory.join(path);
        absolute.components().filter(|part| !matches!(part, Component::CurDir)).collect()
    };
    let absolute: Vec<PathBuf> = written.iter().map(absolute).collect();
    let places: Vec<PathBuf> = absolute.iter().map(|path| place(path, disk)).collect();
    for (index, place) in places.iter().enumerate() {
        for (before, other) in places[..index].iter().enumerate() {
            let (one, two) = (written[before].display(), written[index].display());
            let text = match () {
                () if place == other => format!("{one} and {two} are one directory, {}; list it once", place.display()),
                () if place.starts_with(other) => format!("{two} lies in {one}; no data directory may lie in another"),
                () if other.starts_with(place) => format!("{one} lies in {two}; no data directory may lie in another"),
                () => continue,
            };
            problems.push(loaded.problem(KEY, text));
        }
    }
    absolute
}

/// What an absolute path comes to: without links as far as it exists, and without `.` and `..`.
pub(super) fn place(path: &Path, disk: &dyn Disk) -> PathBuf {
    let real = path.ancestors().find_map(|known| {
        let rest = path.strip_prefix(known).ok()?;
        Some(disk.real_path(known).ok()?.join(rest))
    });
    let mut place = PathBuf::new();
    for part in real.as_deref().unwrap_or(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                place.pop();
            }
            part => place.push(part),
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, Sources, load};
    use crate::runtime::production::LocalDisk;

    /// What is wrong with directories in a working directory that has `data`, and `link` and `links/data` that lead to it.
    fn problems(directories: &[&str]) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        // The path of temporary files may have links of its own.
        let root = std::fs::canonicalize(home.path()).unwrap();
        std::fs::create_dir(root.join("data")).unwrap();
        std::os::unix::fs::symlink("data", root.join("link")).unwrap();
        std::os::unix::fs::symlink(".", root.join("links")).unwrap();
        let shown = root.to_str().unwrap();
        let text = directories.join(",").replace("ROOT", shown);
        let flags = vec![Assignment::text(KEY, text, "flag")];
        let loaded = load(&Sources { flags, ..Sources::default() }, &LocalDisk).unwrap();
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let machine = Machine { memory_bytes: 0, working_directory: root.clone(), address };
        let mut problems = Vec::new();
        resolve(&loaded, &machine, &LocalDisk, &mut problems);
        problems.iter().map(|problem| problem.to_string().replace(shown, "ROOT")).collect()
    }

    #[test]
    fn one_directory_under_two_names_is_refused_with_both() {
        for (one, two) in [
            ("data", "data"),
            ("data", "./data"),
            ("data/", "data"),
            ("data", "ROOT/data"),
            ("data", "data/."),
            ("other/../data", "data"),
            ("link", "data"),
            ("links/data", "link"),
            ("link/../data", "data"),
            ("new", "other/../new"),
            ("links/new", "new"),
        ] {
            let place = if two.contains("new") { "ROOT/new" } else { "ROOT/data" };
            let expected = format!("flag: data.directories: {one} and {two} are one directory, {place}; list it once");
            assert_eq!(problems(&[one, two]), [expected]);
        }
    }

    #[test]
    fn a_directory_in_another_is_refused_and_neighbours_are_not() {
        for (inner, outer) in [("data/x", "data"), ("link/x", "data"), ("links/data/x/y", "link"), ("new/x", "new")] {
            let expected =
                format!("flag: data.directories: {inner} lies in {outer}; no data directory may lie in another");
            assert_eq!(problems(&[inner, outer]), [expected.as_str()]);
            assert_eq!(problems(&[outer, inner]), [expected.as_str()]);
        }
        assert!(problems(&["data", "data2", "links/dat", "new"]).is_empty());
    }
}
