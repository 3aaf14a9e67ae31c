//! The two doors of a primary: the control socket and the monitor address, opened at the start or taken over from the
//! image before.

use std::path::PathBuf;

use super::arguments::RunOptions;
use super::run::failed;
use super::{Exit, Failure, runtime_directory};
use crate::primary::Primary;
use crate::primary::address::Address;
use crate::primary::admin::{Admin, ClaimError, ControlSocket, Doors, EcvOptions, MonitorSocket};
use crate::primary::reexec::{CarriedDoors, CarriedMonitor, CarriedSocket};

/// Where they are to be.
#[derive(Debug, Clone)]
pub(super) struct DoorOptions {
    /// `None`: in the runtime directory, under the primary's name.
    control: Option<PathBuf>,
    /// `None`: there is no monitor.
    monitor: Option<Address>,
    ecv: EcvOptions,
}

impl DoorOptions {
    pub(super) fn of(options: &RunOptions) -> Self {
        let ecv = EcvOptions {
            path: options.ecv_path.clone().unwrap_or_default(),
            url: options.ecv_monitor.clone(),
            is_control: options.ecv_control,
        };
        Self { control: options.control.clone(), monitor: options.monitor.clone(), ecv }
    }

    /// What is in force, in TOML, for the primary `name`.
    pub(super) fn lines(&self, name: &str) -> Vec<String> {
        let text = |text: &dyn std::fmt::Display| serde_json::Value::from(text.to_string()).to_string();
        let control = self.control.clone().unwrap_or_else(|| runtime_directory::socket_of(name));
        let monitor = self.monitor.as_ref();
        vec![
            format!("control = {}", text(&control.display())),
            monitor.map_or("# monitor: off".into(), |address| format!("monitor = {}", text(address))),
            format!("ecv-path = {}", text(&self.ecv.path)),
            self.ecv.url.as_ref().map_or("# ecv-monitor: off".into(), |url| format!("ecv-monitor = {}", text(url))),
            format!("ecv-control = {}", self.ecv.is_control),
        ]
    }
}

/// Opens both and serves them.
///
/// # Errors
/// [`Exit::CannotListen`] for the monitor's address, [`Exit::NameTaken`] and [`Exit::Usage`] for the control socket.
pub(super) fn open(primary: &mut Primary, options: DoorOptions, carried: CarriedDoors) -> Result<Admin, Failure> {
    let is_upgraded = carried.control.is_some();
    // The name is claimed last: an address in use says more about what is wrong.
    let monitor = match options.monitor.map(|wanted| open_monitor(&wanted, carried.monitor)).transpose() {
        Err(failure) if is_upgraded => {
            // The configuration has changed in the meantime. The door to the rest must not close for it.
            log::error!("{} [going on without a monitor]", failure.line);
            None
        }
        opened => opened?,
    };
    let control = open_control(options.control, primary.name(), carried.control)?;
    let keep = failed("keep the doors for an upgrade");
    primary.carry(CarriedDoors {
        control: Some(control.carried().map_err(&keep)?),
        monitor: monitor.as_ref().map(MonitorSocket::carried).transpose().map_err(&keep)?,
    });
    if let Some(monitor) = monitor.as_ref().filter(|monitor| !monitor.is_loopback()) {
        log::warn!(
            "monitor={} is not a loopback address: whoever can connect may read the state of this primary; \
             --monitor 127.0.0.1:PORT is for this machine only",
            monitor.address()
        );
    }
    Admin::start(Doors { control, monitor, ecv: options.ecv }, primary).map_err(failed("serve the control socket"))
}

/// One that was bound for another address is closed: the configuration has changed in the meantime.
fn open_monitor(wanted: &Address, carried: Option<CarriedMonitor>) -> Result<MonitorSocket, Failure> {
    match carried.filter(|carried| carried.wanted == *wanted) {
        Some(carried) => MonitorSocket::restore(carried).map_err(failed("take over the monitor's socket")),
        None => MonitorSocket::bind(wanted).map_err(|error| {
            let line = format!("--monitor {wanted}: {error}; choose another address with --monitor HOST:PORT");
            Failure::new(Exit::CannotListen, line)
        }),
    }
}

fn open_control(path: Option<PathBuf>, name: &str, carried: Option<CarriedSocket>) -> Result<ControlSocket, Failure> {
    match carried {
        Some(carried) => ControlSocket::restore(carried).map_err(failed("take over the control socket")),
        None => claim_control_socket(path, name),
    }
}

fn claim_control_socket(control: Option<PathBuf>, name: &str) -> Result<ControlSocket, Failure> {
    let path = match control {
        Some(path) => path,
        None => {
            let elsewhere = |why| Failure::new(Exit::Usage, format!("{why}; choose another place with --control PATH"));
            runtime_directory::make().map_err(elsewhere)?;
            runtime_directory::socket_of(name)
        }
    };
    ControlSocket::claim(&path).map_err(|error| match error {
        ClaimError::Alive { .. } => Failure::new(
            Exit::NameTaken,
            format!("the name {name} is taken: {error}; choose another --name or --control"),
        ),
        ClaimError::TooLong(_) => Failure::new(Exit::Usage, format!("{error}; choose a shorter --name or --control")),
        ClaimError::Taken { .. } | ClaimError::Io { .. } => {
            Failure::new(Exit::Usage, format!("{error}; choose another place with --control PATH"))
        }
    })
}
