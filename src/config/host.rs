//! What the configuration has to know of the machine, looked up once at the start.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use rustix::system::sysinfo;

use crate::runtime::disk::{Disk, Open};

/// Most bytes of `/proc/self/cgroup` that are read: it has a short line for each hierarchy.
const GROUPS_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Memory that the process may use: the least limit of its control groups, or all there is.
    pub memory_bytes: u64,
    /// What relative paths start from.
    pub working_directory: PathBuf,
    /// The address from which it would send to other networks; loopback where it has no way to any.
    pub address: IpAddr,
}

impl Machine {
    /// Looks at this machine.
    pub fn probe(disk: &dyn Disk, working_directory: PathBuf) -> Self {
        let info = sysinfo();
        let installed = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let groups = read(disk, Path::new("/proc/self/cgroup"), GROUPS_BYTES).unwrap_or_default();
        let limit = memory_limit(disk, Path::new("/sys/fs/cgroup"), &groups);
        let memory_bytes = installed.min(limit.unwrap_or(u64::MAX));
        let address = outgoing_address().unwrap_or(Ipv4Addr::LOCALHOST.into());
        Self { memory_bytes, working_directory, address }
    }

    /// The host that others are told of a listener on every address, and why.
    pub(super) fn host_for_others(&self) -> (String, &'static str) {
        let why = match self.address.is_loopback() {
            true => "as this machine has no way to others",
            false => "by which this machine reaches others",
        };
        (self.address.to_string(), why)
    }
}

/// The address that the routes give packets to other networks. Connecting a datagram socket sends nothing; the addresses
/// are kept for documents (RFC 5737, RFC 3849), and so lie behind the default route.
fn outgoing_address() -> Option<IpAddr> {
    let routed = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
    };
    routed("0.0.0.0:0", "192.0.2.1:9").or_else(|| routed("[::]:0", "[2001:db8::1]:9"))
}

/// The least limit on the process's way to the root, in both versions of control groups (`cgroups(7)`). In a container
/// the groups may be named as the host sees them; the limit is at the root of the hierarchy then.
fn memory_limit(disk: &dyn Disk, root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let (hierarchy, file) = match controllers.split(',').any(|controller| controller == "memory") {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false if controllers.is_empty() => (root.to_owned(), "memory.max"),
            false => return None,
        };
        let of_group = |group: &Path| read(disk, &hierarchy.join(group).join(file), 32)?.trim().parse::<u64>().ok();
        Path::new(group.trim_start_matches('/')).ancestors().filter_map(of_group).min()
    });
    limits.min()
}

/// Reads a file of the kernel, whose length is not known beforehand.
fn read(disk: &dyn Disk, path: &Path, most_bytes: usize) -> Option<String> {
    let mut bytes = vec![0; most_bytes];
    let length = disk.open(path, Open::Read).ok()?.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::production::LocalDisk;

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        let limit = |groups: &str| memory_limit(&LocalDisk, root.path(), groups);
        assert_eq!(limit("0::/\n"), None);
        write("service/broker/memory.max", "max\n");
        write("service/memory.max", "536870912\n");
        write("memory/outer/memory.limit_in_bytes", "1000\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("0::/service/broker\n"), Some(536_870_912));
        assert_eq!(limit("9:name=systemd:/\n4:cpu,memory:/outer/not-mounted\n0::/\n"), Some(1000));
        assert_eq!(limit("4:memory:/elsewhere\n"), Some(9_223_372_036_854_771_712));
        assert_eq!(limit("garbage\n::\n"), None);
    }
}
