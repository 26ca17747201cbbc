//! Devices by files of their own.

use rustix::io::Errno;
use uvfio_uapi::Node;

use crate::Argument::{Bytes, Value};
use crate::common::{Kind, Memory, NOWHERE, Program, sys};
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
    program.close(second);
    let second = program.open(Node::Device(1));
    let elsewhere = program.open(Node::Iommu);
    assert_eq!(
        bind(&program, second, elsewhere),
        Err(Errno::PERM),
        "to another file: a group is one user's"
    );
    assert!(bind(&program, second, iommu).is_ok(), "nothing of that is left");
    program.close(device);
    assert_eq!(
        program.try_open(Node::Group(7)),
        Err(Errno::BUSY),
        "that one is bound still"
    );
    program.close(second);
    assert!(program.try_open(Node::Group(7)).is_ok());
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:01:00.1", 7, Kind::Edu)]);
    let (iommu, elsewhere) = (program.open(Node::Iommu), program.open(Node::Iommu));
    let (first, second) = (program.open(Node::Device(0)), program.open(Node::Device(1)));
    assert!(bind(&program, first, iommu).is_ok());
    program.close(first);
    assert!(
        bind(&program, second, elsewhere).is_ok(),
        "nobody has the group any more"
    );
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

/// IOMMU_HWPT_ALLOC's argument.
fn table(flags: u32, device: u32, from: u32) -> Vec<u8> {
    sys::words(&[48, flags, device, from, 0, 0, 0, 0, 0, 0, 0, 0])
}

#[test]
fn what_can_be_wrong_with_page_tables() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:02:00.0", 8, Kind::Edu)]);
    let iommu = program.open(Node::Iommu);
    let space = ioas(&program, iommu);
    let (device, second) = (program.open(Node::Device(0)), program.open(Node::Device(1)));
    let number = bind(&program, device, iommu).expect("bound");
    bind(&program, second, iommu).expect("bound");
    let mut made = table(0, number, space);
    program
        .ioctl(iommu, sys::HWPT_ALLOC, &mut made)
        .expect("a page table");
    let made = sys::u32_at(&made, 16);
    let changed = |at: usize, value: u32| {
        let mut argument = table(0, number, space);
        argument[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        Bytes(argument)
    };
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let cases = vec![
        refused("no memory there", Value(NOWHERE), Errno::FAULT),
        refused("size a byte short", changed(0, 23), Errno::INVAL),
        refused("dirty pages", changed(4, 2), Errno::OPNOTSUPP),
        refused("no such device", changed(8, 77), Errno::NOENT),
        refused("an address space for a device", changed(8, space), Errno::NOENT),
        refused("no such address space", changed(12, 77), Errno::NOENT),
        refused("of a device", changed(12, number), Errno::INVAL),
        refused("of a page table", changed(12, made), Errno::INVAL),
        refused("the reserved field", changed(20, 1), Errno::OPNOTSUPP),
        refused("a type without data", changed(24, 1), Errno::INVAL),
        refused("data without a type", changed(28, 8), Errno::INVAL),
    ];
    check(&program, iommu, sys::HWPT_ALLOC, cases);

    let destroy = |id: u32| program.ioctl(iommu, sys::DESTROY, &mut sys::words(&[8, id]));
    assert_eq!(attach(&program, device, made), Ok(made), "what was named");
    let shared = attach(&program, second, space).expect("attached");
    assert_ne!(
        shared, made,
        "who names the address space gets what nobody asked for"
    );
    assert_eq!(destroy(made), Err(Errno::BUSY), "it is in use");
    assert_eq!(attach(&program, device, space), Ok(shared));
    assert_eq!(destroy(space), Err(Errno::BUSY), "it has page tables");
    assert_eq!(
        attach(&program, device, made),
        Ok(made),
        "it stays without devices"
    );
    assert_eq!(attach(&program, device, space), Ok(shared));
    assert_eq!(destroy(made), Ok(0));
    assert_eq!(attach(&program, device, made), Err(Errno::NOENT));
}

#[test]
fn the_iommu_has_nothing_that_is_optional() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let device = program.open(Node::Device(0));
    let number = bind(&program, device, iommu).expect("bound");
    let memory = Memory::new(4096);
    memory.put(0, &[0xff; 4096]);
    let asked = |flags: u32, device: u32, data: u64, bytes: u32| {
        let mut argument = sys::words(&[40, flags, device, bytes, 0, 0, 77, 0x77, 7, 7]);
        argument[16..24].copy_from_slice(&data.to_ne_bytes());
        argument
    };
    let mut answer = asked(0, number, memory.address(), 100);
    assert_eq!(program.ioctl(iommu, sys::GET_HW_INFO, &mut answer), Ok(0));
    let field = |at| sys::u32_at(&answer, at);
    assert_eq!([field(12), field(24), field(28)], [0, 0, 0], "data, type, PASIDs");
    assert_eq!(sys::u64_at(&answer, 32), 0, "capabilities");
    assert_eq!(memory.get(0, 101), [[0; 100].as_slice(), &[0xff]].concat());

    let mut shorter = asked(1, number, 0, 0);
    shorter[..4].copy_from_slice(&32_u32.to_ne_bytes());
    assert_eq!(program.ioctl(iommu, sys::GET_HW_INFO, &mut shorter), Ok(0));
    assert_eq!(
        sys::u64_at(&shorter, 32),
        7 << 32 | 7,
        "what the caller does not know of"
    );
    let mut reserved = asked(0, number, 0, 0);
    reserved[29] = 1;
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let cases = vec![
        refused("no memory there", Value(NOWHERE), Errno::FAULT),
        refused("an unknown flag", Bytes(asked(2, number, 0, 0)), Errno::OPNOTSUPP),
        refused("the reserved field", Bytes(reserved), Errno::OPNOTSUPP),
        refused("no such device", Bytes(asked(0, 77, 0, 0)), Errno::NOENT),
        refused(
            "no room for data",
            Bytes(asked(0, number, NOWHERE, 8)),
            Errno::FAULT,
        ),
    ];
    check(&program, iommu, sys::GET_HW_INFO, cases);
}
