//! A cable to another network: one end here with an address of its own, the other in the network namespace of a process.

use std::net::Ipv4Addr;

use super::clients::COMMAND_LIMIT;
use super::process;

/// A pair of virtual Ethernet devices. Both go with the namespace, and with this value.
#[derive(Debug)]
pub(crate) struct Cable {
    device: String,
    here: Ipv4Addr,
}

impl Cable {
    /// Chooses addresses that nobody on this machine uses.
    pub(crate) async fn choose() -> Self {
        let network = free_network().await;
        Self { device: format!("tidegate{network}"), here: Ipv4Addr::new(10, 77, network, 1) }
    }

    /// Lays the cable to the network namespace of process `pid`.
    pub(crate) async fn connect_to_namespace_of(&self, pid: u32) {
        let [a, b, network, _] = self.here.octets();
        let there = Ipv4Addr::new(a, b, network, 2);
        let pid = pid.to_string();
        ip(&["link", "add", &self.device, "type", "veth", "peer", "name", "eth0", "netns", &pid]).await;
        ip(&["address", "add", &format!("{}/30", self.here), "dev", &self.device]).await;
        ip(&["link", "set", &self.device, "up"]).await;
        let there = format!("{there}/30");
        for arguments in [
            vec!["address", "add", &there, "dev", "eth0"],
            vec!["link", "set", "eth0", "up"],
            vec!["link", "set", "lo", "up"],
        ] {
            let mut command = process::command("nsenter");
            command.args(["--target", &pid, "--net", "ip"]).args(arguments);
            process::run(command, COMMAND_LIMIT).await.unwrap_or_else(|error| panic!("{error:#}"));
        }
    }

    /// This machine's address on the cable.
    pub(crate) fn here(&self) -> Ipv4Addr {
        self.here
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The namespace may be gone already, and the cable with it.
        let _ = process::command("ip").args(["link", "delete", &self.device]).output();
    }
}

/// A third byte such that `10.77.N.0/30` and the device for it are not in use.
async fn free_network() -> u8 {
    let used = ip(&["-4", "-oneline", "address", "show"]).await;
    let links = ip(&["-oneline", "link", "show"]).await;
    let free = |number: &u8| {
        !used.contains(&format!(" 10.77.{number}.")) && !links.contains(&format!("tidegate{number}@"))
    };
    (1..=250).find(free).expect("a free network below 10.77.0.0/16")
}

async fn ip(arguments: &[&str]) -> String {
    let mut command = process::command("ip");
    command.args(arguments);
    process::run(command, COMMAND_LIMIT).await.unwrap_or_else(|error| panic!("{error:#}"))
}
