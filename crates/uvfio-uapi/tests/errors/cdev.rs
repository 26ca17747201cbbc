//! Devices by files of their own.

use rustix::io::Errno;
use uvfio_uapi::Node;

use crate::Argument::Bytes;
use crate::common::{Kind, NOWHERE, Program, sys};
use crate::iommufd::ioas;
use crate::{Case, check};

/// Binds; the device's number.
fn bind(program: &Program, device: i32, iommu: i32) -> Result<u32, Errno> {
    let mut argument = sys::bind(0, iommu);
    program.ioctl(device, sys::BIND, &mut argument)?;
    Ok(sys::u32_at(&argument, 12))
}

/// Attaches; the number of what it is attached to.
fn attach(program: &Program, device: i32, id: u32) -> Result<u32, Errno> {
    let mut argument = sys::words(&[16, 0, id, 0]);
    program.ioctl(device, sys::ATTACH, &mut argument)?;
    Ok(sys::u32_at(&argument, 8))
}

#[test]
fn what_can_be_wrong_with_binding_and_attaching() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:02:00.0", 8, Kind::Edu)]);
    let iommu = program.open(Node::Iommu);
    let space = ioas(&program, iommu);
    let device = program.open(Node::Device(0));
    let (_, eventfd) = program.eventfd();
    // Before it is bound, nothing goes but that.
    for request in (0x3b00..0x3c00).filter(|request| *request != sys::BIND) {
        assert_eq!(
            program.ioctl_value(device, request, NOWHERE),
            Err(Errno::INVAL),
            "{request:#x}"
        );
    }
    let file = program.file(device);
    assert_eq!(program.uapi.read(file, 7 << 40, &mut [0; 4]), Err(Errno::INVAL));
    assert_eq!(program.uapi.mappings(file, 0, 4096).err(), Some(Errno::INVAL));

    let binding = |flags, number| Bytes(sys::bind(flags, number));
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let mut cases = crate::structure(16);
    cases.extend([
        refused("an unknown flag", binding(2, iommu), Errno::INVAL),
        refused("a token", binding(1, iommu), Errno::INVAL),
        refused("-1", binding(0, -1), Errno::INVAL),
        refused("no such descriptor", binding(0, 99_999), Errno::BADF),
        refused("an eventfd", binding(0, eventfd), Errno::BADFD),
        refused(
            "a container",
            binding(0, program.open(Node::Container)),
            Errno::BADFD,
        ),
        Case("it", binding(0, iommu), Ok(0)),
        refused("a second time", binding(0, iommu), Errno::INVAL),
    ]);
    check(&program, device, sys::BIND, cases);
    let other = program.open(Node::Device(0));
    assert_eq!(
        bind(&program, other, iommu),
        Err(Errno::INVAL),
        "another file of it"
    );

    let attaching = |flags, id| Bytes(sys::words(&[16, flags, id, 0]));
    let mut cases = crate::structure(12);
    cases.extend([
        refused("an unknown flag", attaching(2, space), Errno::INVAL),
        refused("a PASID", attaching(1, space), Errno::OPNOTSUPP),
        refused("no such object", attaching(0, 77), Errno::NOENT),
        Case("an address space", attaching(0, space), Ok(0)),
        Case("the same again", attaching(0, space), Ok(0)),
    ]);
    check(&program, device, sys::ATTACH, cases);
    let second = program.open(Node::Device(1));
    let number = bind(&program, second, iommu).expect("bound");
    assert_eq!(attach(&program, device, number), Err(Errno::INVAL), "to a device");
    let shared = attach(&program, second, space).expect("attached");
    assert_eq!(attach(&program, device, shared), Ok(shared), "what both share");
    let destroy = |id: u32| program.ioctl(iommu, sys::DESTROY, &mut sys::words(&[8, id]));
    for id in [space, shared, number] {
        assert_eq!(destroy(id), Err(Errno::BUSY), "object {id}");
    }
    let mut cases = crate::structure(8);
    cases.extend([
        refused("an unknown flag", Bytes(sys::words(&[12, 2, 0])), Errno::INVAL),
        refused("a PASID", Bytes(sys::words(&[12, 1, 0])), Errno::OPNOTSUPP),
        Case("it", Bytes(sys::words(&[12, 0, 0])), Ok(0)),
        Case("again", Bytes(sys::words(&[12, 0, 0])), Ok(0)),
    ]);
    check(&program, second, sys::DETACH, cases);
    assert_eq!(destroy(space), Err(Errno::BUSY), "the first is attached still");
    program.close(device);
    assert_eq!(destroy(space), Ok(0));
    program.close(second);
    assert_eq!(
        destroy(number),
        Err(Errno::NOENT),
        "with its file went its number"
    );
}

#[test]
fn a_group_and_a_device_s_own_file_exclude_each_other() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:01:00.1", 7, Kind::Edu)]);
    let iommu = program.open(Node::Iommu);
    let device = program.open(Node::Device(0));
    let group = program.open(Node::Group(7));
    assert_eq!(bind(&program, device, iommu), Err(Errno::BUSY));
    program.close(group);
    assert!(bind(&program, device, iommu).is_ok());
    assert_eq!(program.try_open(Node::Group(7)), Err(Errno::BUSY));
    let second = program.open(Node::Device(1));
    assert!(
        bind(&program, second, iommu).is_ok(),
        "another device of the group"
    );
    program.close(device);
    assert_eq!(
        program.try_open(Node::Group(7)),
        Err(Errno::BUSY),
        "that one is bound still"
    );
    program.close(second);
    assert!(program.try_open(Node::Group(7)).is_ok());
}

#[test]
fn a_device_s_file_from_its_group_is_not_bound() {
    let program = Program::edu();
    let (_, _, device) = program.opened();
    let iommu = program.open(Node::Iommu);
    assert_eq!(bind(&program, device, iommu), Err(Errno::INVAL));
    for request in [sys::ATTACH, sys::DETACH] {
        assert_eq!(program.ioctl_value(device, request, NOWHERE), Err(Errno::NOTTY));
    }
}

#[test]
fn a_bus_is_reset_by_the_file_that_all_of_it_is_bound_to() {
    let program = Program::with(&[
        ("0000:01:00.0", 7, Kind::Edu),
        ("0000:01:00.1", 7, Kind::Edu),
        ("0000:01:00.2", 8, Kind::Edu),
    ]);
    let iommu = program.open(Node::Iommu);
    let first = program.open(Node::Device(0));
    let own = bind(&program, first, iommu).expect("bound");
    let info = || {
        let mut info = sys::sealed(vec![0; 12 + 3 * 8]);
        program
            .ioctl(first, sys::HOT_RESET_INFO, &mut info)
            .expect("info");
        let ids = [12, 20, 28].map(|at| sys::u32_at(&info, at) as i32);
        (sys::u32_at(&info, 4), ids)
    };
    let reset = || program.ioctl(first, sys::HOT_RESET, &mut sys::words(&[12, 0, 0]));
    assert_eq!(
        info(),
        (1, [own as i32, 0, -1]),
        "its own, its group's, another's"
    );
    assert_eq!(reset(), Err(Errno::INVAL));
    let third = program.open(Node::Device(2));
    let elsewhere = program.open(Node::Iommu);
    bind(&program, third, elsewhere).expect("bound");
    assert_eq!(info().1, [own as i32, 0, -1]);
    program.close(third);
    let second = program.open(Node::Device(1));
    bind(&program, second, elsewhere).expect("bound");
    assert_eq!(info().1, [own as i32, -1, -1], "its group's, bound elsewhere");
    program.close(second);
    let third = program.open(Node::Device(2));
    let other = bind(&program, third, iommu).expect("bound");
    assert_eq!(info(), (3, [own as i32, 0, other as i32]));
    assert_eq!(reset(), Ok(0));
    let group = &mut sys::words(&[16, 0, 1, iommu as u32]);
    assert_eq!(
        program.ioctl(first, sys::HOT_RESET, group),
        Err(Errno::INVAL),
        "with groups"
    );
}
