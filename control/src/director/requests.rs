//! What a request changes: live changes to services and servers, in terms of the model.

use crate::config::{self, Admin, Content, Problem, Server, Service, Word, nearest};
use crate::model::{Change, Model, Refused};
use crate::protocol::{Failure, FailureCode, NewContent, ServerSettings, ServiceSettings};
use crate::rules::{FileError, Names, RuleSet};
use lcs_pipelines::content::{Binding, Switching};
use std::path::Path;
use std::sync::Arc;

/// Said with every live change.
pub(super) const NOT_WRITTEN: &str =
    "this is not written to the configuration file; `lcs reload` goes back to what the file says";

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::NoService(_) | Refused::NoServer(..) => FailureCode::NotFound,
            _ => FailureCode::Refused,
        };
        Failure::new(code, refused.to_string())
    }
}

/// The service of this name, to be changed; names the nearest when there is none.
fn service(model: &Model, name: &str) -> Result<Service, Failure> {
    if let Some(service) = model.service(name) {
        return Ok(service.clone());
    }
    let services = model.services();
    let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
    let mut failure: Failure = Refused::NoService(name.to_owned()).into();
    if let Some(near) = nearest(name, &names) {
        failure.message = format!("there is no service {name}; did you mean {near}?");
    }
    Err(failure)
}

fn server<'s>(service: &'s mut Service, name: &str) -> Result<&'s mut Server, Failure> {
    let none = Refused::NoServer(service.name.clone(), name.to_owned());
    service.servers.iter_mut().find(|s| s.name == name).ok_or_else(|| none.into())
}

pub(super) fn add_service(
    model: &mut Model,
    mut new: Service,
    content: Option<NewContent>,
    kernel: bool,
) -> Result<Vec<Change>, Failure> {
    if model.service(&new.name).is_some() {
        return Err(Refused::ServiceExists(new.name).into());
    }
    if new.check.is_some() && !kernel {
        let text = format!(
            "service {} has a check, and the port has no kernel that could ask its servers (with DPDK, [[port.taps]] gives it one)",
            new.name
        );
        return Err(Failure::new(FailureCode::Refused, text));
    }
    new.content = content.map(|content| new_content(&new, content)).transpose()?;
    Ok(model.put_service(&new)?)
}

/// The content of a service that is added while the director runs.
fn new_content(service: &Service, wanted: NewContent) -> Result<Content, Failure> {
    let application = lcs_pipelines::extract::Protocol::from_word(&wanted.application)
        .map_err(|what| Failure::new(FailureCode::BadRequest, format!("application: {what}")))?;
    let group = |name| config::Group { name, scheduler: None, servers: Vec::new() };
    let mut groups: Vec<config::Group> = wanted.groups.into_iter().map(group).collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    groups.dedup_by(|a, b| a.name == b.name);
    let names = config::names(
        groups.iter().map(|group| group.name.as_str()),
        service.servers.iter().map(|server| server.name.as_str()),
        &[],
    );
    let rules = read_rules(&wanted.rules, &names, "no service was added")?;
    let switching =
        if application == lcs_pipelines::extract::Protocol::Http { Switching::Request } else { Switching::Connection };
    let binding = Binding { switching, ..Binding::default() };
    Ok(Content { application, rules: Arc::new(rules), groups, binding, host_name: None })
}

/// Reads rules; `otherwise` says what is as it was when they have mistakes.
fn read_rules(file: &Path, names: &Names, otherwise: &str) -> Result<RuleSet, Failure> {
    if !file.is_absolute() {
        let message = format!("{} is no absolute path", file.display());
        return Err(Failure::new(FailureCode::BadRequest, message));
    }
    config::load_rules(file, names).map_err(|error| {
        let report = format!("{error}\n\n{otherwise}");
        match error {
            FileError::Unreadable { .. } => Failure::new(FailureCode::Refused, report),
            FileError::Errors(errors) => Failure::of_file(report, errors.0.into_iter().map(Problem::from)),
        }
    })
}

pub(super) fn set_service(model: &mut Model, name: &str, set: &ServiceSettings) -> Result<Vec<Change>, Failure> {
    let mut s = service(model, name)?;
    s.address = set.address.unwrap_or(s.address);
    s.port = set.port.unwrap_or(s.port);
    s.scheduler = set.scheduler.unwrap_or(s.scheduler);
    s.forward = set.forward.unwrap_or(s.forward);
    s.source_ports = set.source_ports.unwrap_or(s.source_ports);
    if let Some(sources) = &set.sources {
        s.sources.clone_from(sources);
    }
    Ok(model.put_service(&s)?)
}

pub(super) fn remove_service(model: &mut Model, name: &str) -> Result<Vec<Change>, Failure> {
    service(model, name)?;
    Ok(model.remove_service(name)?)
}

pub(super) fn add_server(
    model: &mut Model,
    name: &str,
    new: &str,
    set: &ServerSettings,
) -> Result<Vec<Change>, Failure> {
    let mut s = service(model, name)?;
    if s.server(new).is_some() {
        return Err(Refused::ServerExists(name.to_owned(), new.to_owned()).into());
    }
    let Some(address) = set.address else {
        return Err(Failure::new(FailureCode::BadRequest, format!("server {name}/{new} needs an address")));
    };
    s.servers.push(Server {
        name: new.to_owned(),
        address,
        port: set.port.unwrap_or(0),
        weight: set.weight.unwrap_or(1),
        forward: set.forward.unwrap_or(s.forward),
        state: set.state.unwrap_or(Admin::Up),
    });
    set_groups(&mut s, new, set.groups.as_deref())?;
    Ok(model.put_service(&s)?)
}

pub(super) fn set_server(
    model: &mut Model,
    name: &str,
    which: &str,
    set: &ServerSettings,
) -> Result<Vec<Change>, Failure> {
    let mut s = service(model, name)?;
    let server = server(&mut s, which)?;
    server.address = set.address.unwrap_or(server.address);
    server.port = set.port.unwrap_or(server.port);
    server.weight = set.weight.unwrap_or(server.weight);
    server.forward = set.forward.unwrap_or(server.forward);
    server.state = set.state.unwrap_or(server.state);
    set_groups(&mut s, which, set.groups.as_deref())?;
    Ok(model.put_service(&s)?)
}

/// Makes `groups` those that a server is in.
fn set_groups(service: &mut Service, server: &str, groups: Option<&[String]>) -> Result<(), Failure> {
    let Some(wanted) = groups else { return Ok(()) };
    let label = &service.name;
    let Some(content) = &mut service.content else {
        let message = format!("service {label} is not switched by content, so it has no groups");
        return Err(Failure::new(FailureCode::Refused, message));
    };
    if let Some(strange) = wanted.iter().find(|name| content.group(name).is_none()) {
        let names: Vec<&str> = content.groups.iter().map(|group| group.name.as_str()).collect();
        let mend = match nearest(strange, &names) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("it has {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }),
        };
        let message = format!("service {label} has no group {strange}; {mend}");
        return Err(Failure::new(FailureCode::NotFound, message));
    }
    for group in &mut content.groups {
        let member = group.servers.iter().any(|name| name == server);
        match (member, wanted.contains(&group.name)) {
            (false, true) => group.servers.push(server.to_owned()),
            (true, false) => group.servers.retain(|name| name != server),
            _ => {}
        }
    }
    Ok(())
}

/// Gives a service the rules of a file.
pub(super) fn load_rules(model: &mut Model, name: &str, file: &Path) -> Result<Vec<Change>, Failure> {
    let mut s = service(model, name)?;
    let Some(content) = &mut s.content else {
        let message = format!(
            "service {name} is not switched by content; give it rules = \"FILE\" and groups in the configuration, and \
             then `lcs reload`"
        );
        return Err(Failure::new(FailureCode::Refused, message));
    };
    let groups = content.groups.iter().map(|group| group.name.as_str());
    let servers = s.servers.iter().map(|server| server.name.as_str());
    let names = config::names(groups, servers, &content.binding.queues);
    let rules = read_rules(file, &names, "nothing was changed; the rules that run stay")?;
    content.rules = Arc::new(rules);
    Ok(model.put_service(&s)?)
}

pub(super) fn remove_server(model: &mut Model, name: &str, which: &str) -> Result<Vec<Change>, Failure> {
    let mut s = service(model, name)?;
    server(&mut s, which)?;
    s.servers.retain(|r| r.name != which);
    let groups = s.content.iter_mut().flat_map(|content| &mut content.groups);
    groups.for_each(|group| group.servers.retain(|member| member != which));
    Ok(model.put_service(&s)?)
}
